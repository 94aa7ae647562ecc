"""`mshare report`'s page: records in, one HTML file without any reference to elsewhere out. Needs the extra `report`.
Pure. May depend on: scan, table, units, jinja2, markupsafe, matplotlib."""
