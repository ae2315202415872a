"""The verbs of the command line: each file parses one verb's flags and calls one function."""
