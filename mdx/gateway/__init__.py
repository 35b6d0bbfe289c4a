"""The gateway as a daemon: a file that says what it does, its certificate, its audit and its log.

What it does on the network is `tunnel.serve_gateway`; here is what that is given.
"""
