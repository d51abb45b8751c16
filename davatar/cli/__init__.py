"""The command line: one module per command group; each parses, calls one domain function and prints.

Importing any of these modules imports no heavy library; command functions do.
"""
