"""The command line: parse, call one function, print.

Owns click. In: arguments. Out: lines, JSON and exit codes.
"""
