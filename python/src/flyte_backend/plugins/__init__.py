"""Plugins for services that many use, each a module that registers itself: ``flyte-backend-serve --plugins
flyte_backend.plugins.bigquery``. Each needs the extra of its name."""
