"""The command line: one module per command, each with `add_arguments` and `run`.

A command imports torch-dependent modules inside `run`, so that help texts and command-line errors do not load torch.
"""
