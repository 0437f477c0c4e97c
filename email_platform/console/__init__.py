"""The console: the API's services as pages for people, on the API's process.

Invariant: a page does nothing that the API's endpoints would refuse the same caller; it calls what they call.
"""
