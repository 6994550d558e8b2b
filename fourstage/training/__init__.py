"""How the stand-ins of `weights=demo` are trained on demo scenes: `python -m fourstage.train model=eventgpt`."""
