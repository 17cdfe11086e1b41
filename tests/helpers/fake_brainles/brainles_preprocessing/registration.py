class ANTsRegistrator:
    def __init__(self, registration_params=None, transformation_params=None):
        self.transformation_params = transformation_params
