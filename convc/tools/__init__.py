"""The tools of the command line, one file each: ``add_parser`` and ``run``."""
