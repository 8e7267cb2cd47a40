from django.apps import AppConfig


class NodeApiConfig(AppConfig):
    name = "nodeapi"
    verbose_name = "Access and relay"
