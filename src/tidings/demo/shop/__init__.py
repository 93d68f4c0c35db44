"""A shop, as an example of how an application is laid out.

`contracts` is what it promises to others and needs no database; `models` are its own tables; `orders` changes them and publishes;
`inventory`, `receipts`, `shipping`, `payments`, `mail` and `sales` handle events, and import neither an engine nor each other; `app` puts
everything together, and is the only module that knows all the others.
"""
