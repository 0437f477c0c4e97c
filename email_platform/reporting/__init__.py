"""Reports that people look at: frames of the marts become one self-contained HTML page.

Invariant: nothing here connects to anything, and a page fetches nothing. What somebody typed into a name or a domain is
text on the page, never markup, and cannot turn the direction of the text around it.
"""
