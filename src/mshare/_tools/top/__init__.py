"""`mshare top`: what `mshare scan` shows, live. Needs the extra `top`, which only `screens` and `app` import."""
