"""Where the fixtures come from that more than one folder of tests uses."""

pytest_plugins = ["services.plone_site", "services.mariadb", "services.postgres", "services.s3", "services.zeo", "services.zeo_site"]
