"""The dashboard in a browser: what people do there, whether everybody can, and what it looks like.

`make test-browser` runs these; a plain `make test` collects none of them, because they need
Chromium and the packages of `requirements/browser.lock`.
"""
