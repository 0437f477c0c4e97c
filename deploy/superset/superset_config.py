"""Superset's configuration for looking at the dashboards on one machine (`make bi`, `make bi-show`).

A Superset of your own keeps its configuration: the dashboards need nothing of this file. Names and meanings:
https://superset.apache.org/docs/configuration/configuring-superset
"""

import os

SECRET_KEY = os.environ["SUPERSET_SECRET_KEY"]
SQLALCHEMY_DATABASE_URI = f"sqlite:///{os.environ['SUPERSET_HOME']}/superset.db"

# Plain HTTP on the loopback interface; cookies are for HTTPS otherwise.
TALISMAN_ENABLED = False
SESSION_COOKIE_SAMESITE = "Lax"
# Queries are asked each time: what is shown is what the warehouse holds now.
CACHE_CONFIG = DATA_CACHE_CONFIG = {"CACHE_TYPE": "NullCache"}
# Filters' states are kept between two requests of a browser.
FILTER_STATE_CACHE_CONFIG = EXPLORE_FORM_DATA_CACHE_CONFIG = {"CACHE_TYPE": "SupersetMetastoreCache"}
RATELIMIT_ENABLED = False
