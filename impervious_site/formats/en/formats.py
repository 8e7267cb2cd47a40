"""How the admin shows times: as everywhere else, to the second, in UTC."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
