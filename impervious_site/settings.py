"""Django's settings, from the node's configuration (config.py)."""

import os
from pathlib import Path

from impervious_site.config import PLACES, Config, ConfigError, find_config, load_config
from impervious_site.databases import postgres_settings, sqlite_settings
from impervious_site.logs import logging_settings
from impervious_site.secret_key import EmptyKeyFile, read, read_or_make
from impervious_site.version import VERSION as VERSION  # noqa: PLC0414 (read as settings.VERSION)

BASE_DIR = Path(__file__).resolve().parent.parent

CONFIG_PATH = find_config(os.environ.get("IMPD_CONFIG"), Path.cwd())
# None for commands that need no node (simulate, makemigrations); runimpd and daphne refuse to run without. `cert` makes what
# the configuration names, so that it must not fail for want of it.
IMPD: Config | None = None
# What is wrong with the configuration, for `doctor`, which examines the rest all the same.
CONFIG_PROBLEMS: list[str] = []
try:
    if CONFIG_PATH and "IMPD_UNREAD" not in os.environ:
        IMPD = load_config(CONFIG_PATH, os.environ)
except ConfigError as _problems:
    if _problems.partial is None or os.environ.get("IMPD_COMMAND") != "doctor":
        raise
    IMPD, CONFIG_PROBLEMS = _problems.partial, _problems.problems
if IMPD:
    # Whatever is made from here on may hold messages, preimages or keys.
    os.umask(0o077)

CONFIG_PLACES = PLACES

INSTALLED_APPS = [
    "impervious_site.admin_config.NodeAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_grpc_framework",
    "channels",
    "drf_spectacular_sidecar",
    "messaging",
    "federation",
    "invoices",
    "vpn",
    "nodeapi",
]

MIDDLEWARE = [
    "impervious_site.secure_cookies.SecureCookies",
    "impervious_site.page_policy.PagePolicy",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

ROOT_URLCONF = "impervious_site.urls"
ASGI_APPLICATION = "impervious_site.asgi.application"

if IMPD and IMPD.database.postgres:
    _database = postgres_settings(IMPD.database.postgres.get_secret_value())
else:
    _database = sqlite_settings(str(IMPD.database.sqlite_path) if IMPD else ":memory:")
# The node's threads keep their connections; under ASGI a longer CONN_MAX_AGE leaks those of admin requests.
DATABASES = {"default": _database | {"CONN_MAX_AGE": 0}}

if IMPD and IMPD.redis_url:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {
                # redis-py's default socket timeout would end the layer's own blocking reads.
                "hosts": [{"address": IMPD.redis_url.get_secret_value(), "socket_timeout": None}],
                "prefix": "impd",
            },
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

REST_FRAMEWORK = {
    "EXCEPTION_HANDLER": "nodeapi.rest.handle_exception",
    "UNAUTHENTICATED_USER": None,
}

DEBUG = False
_key_path = IMPD.database.secret_key_path if IMPD else None
try:
    # A command makes no key: it may be run by another user than the node's, and `doctor` changes nothing.
    _get_key = read if "IMPD_COMMAND" in os.environ else read_or_make
    SECRET_KEY = (_key_path and _get_key(_key_path)) or "no node, no sessions"
except OSError as _error:
    _text = f"cannot be read, or made: {_error.strerror}; its directory must have room, and belong to the node's user"
    raise ConfigError([f"{_key_path}: {_text}"]) from None
except EmptyKeyFile as _error:
    raise ConfigError([f"{_key_path}: {_error}"]) from None
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = []
if IMPD:
    _hosts = [*IMPD.server.allowed_hosts]
    if not IMPD.server.http_addr.is_any:
        _hosts.append(IMPD.server.http_addr.host)
    ALLOWED_HOSTS += [f"[{_host}]" if ":" in _host else _host for _host in _hosts]
    CSRF_TRUSTED_ORIGINS += [*IMPD.server.allowed_origins]

AUTH_PASSWORD_VALIDATORS = [{"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "impervious_site.formats"
STATIC_URL = "/static/"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SAMESITE = "Strict"
SESSION_COOKIE_NAME = "impd_session"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = bool(IMPD and IMPD.server.tls_cert)

# What SIGHUP does.
RELOAD = "impervious_site.reload.Reload"
LOGGING = logging_settings(IMPD.logging.level, IMPD.logging.parts) if IMPD else logging_settings("info", ())
