class logger:
    @staticmethod
    def remove(handler_id=None):
        pass
