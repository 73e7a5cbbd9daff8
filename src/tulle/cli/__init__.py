"""The command line: one module per command in ``commands``, loaded when it is called.

``main`` finds the command and turns every way of failing into a message and an
exit code; ``client`` talks to the control plane; ``output`` prints. Nothing here
imports more than click and the standard library before a command needs it, since
shell completion starts the program at every TAB.
"""
