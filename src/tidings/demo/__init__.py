"""The demo: a small shop, and a day in it.

`shop/` is laid out as an application should be; the modules beside it tell the story, print it, and check the sums.
"""
