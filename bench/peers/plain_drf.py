"""A plain DRF view with DRF's default settings and the middleware of a new Django project, one ORM insert a call:
`daphne bench.peers.plain_drf:application`, BENCH_DATABASE is its file.

The database has the node's own pragmas, so that the journal is not what makes the difference.
"""

import os
import uuid

import django
from django.conf import settings
from django.urls import path

settings.configure(
    SECRET_KEY="bench",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "rest_framework",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["BENCH_DATABASE"],
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
            },
        }
    },
)
django.setup()

from django.core.asgi import get_asgi_application
from django.db import connection, models
from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView


class Message(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    msg = models.TextField()
    pubkey = models.CharField(max_length=66)

    class Meta:
        app_label = "bench"


class MessageSerializer(serializers.Serializer):
    msg = serializers.CharField()
    pubkey = serializers.CharField(max_length=66)


class SendView(APIView):
    def post(self, request):
        serializer = MessageSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response({"id": str(Message.objects.create(**serializer.validated_data).pk)})


urlpatterns = [path("v1/message/send", SendView.as_view())]

with connection.schema_editor() as editor:
    editor.create_model(Message)
connection.close()

application = get_asgi_application()
