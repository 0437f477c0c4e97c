"""The process that takes providers' events and recipients' unsubscriptions over HTTP.

Invariant: a 2xx means that the request's content is durable; anything that could not be made durable is a 5xx, so that
the provider tries again.
"""
