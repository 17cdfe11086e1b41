class ANTsRegistrator:
    pass
