"""The command line: one module per command, each with `add_arguments` and `run`.

Modules import the rest of the package inside `run`: help texts and errors of the command line need no torch.
"""
