"""What Open WebUI is told in every house: private, declarative, and light without a GPU."""

import json

FIXED = {
    # Otherwise the database wins over the environment for ever; and with the environment in
    # charge, sign-up opens again at every start unless it is closed here.
    "ENABLE_PERSISTENT_CONFIG": "false",
    "ENABLE_SIGNUP": "false",
    "DEFAULT_USER_ROLE": "pending",
    "WEBUI_ADMIN_NAME": "Admin",
    # Without, a model is hidden from everybody but admins until one of them opens it.
    "BYPASS_MODEL_ACCESS_CONTROL": "true",
    # A stolen session is good until it expires; the default is four weeks.
    "JWT_EXPIRES_IN": "7d",
    # Not below /app/backend/data: a volume there hides the models that the image brings.
    "DATA_DIR": "/data",
    "STATIC_DIR": "/tmp/static",
    "HOME": "/tmp",
    "RAG_EMBEDDING_ENGINE": "ollama",
    # One request for each chunk, all at once, is more than Ollama queues: a 120 kB text failed.
    "RAG_EMBEDDING_BATCH_SIZE": "16",
    "RAG_EMBEDDING_CONCURRENT_REQUESTS": "4",
    # Nothing leaves the house.
    "OFFLINE_MODE": "true",
    "ENABLE_OPENAI_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "ENABLE_COMMUNITY_SHARING": "false",
    # The download of the database damages the database that is being served.
    "ENABLE_ADMIN_EXPORT": "false",
    # Plugins are arbitrary Python that runs as this pod.
    "ENABLE_PLUGINS": "false",
    "ENABLE_PIP_INSTALL_FRONTMATTER_REQUIREMENTS": "false",
    # Four calls and 20 kB of tool descriptions for a first "hi" are minutes without a GPU.
    "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": False}}),
    "ENABLE_FOLLOW_UP_GENERATION": "false",
    "ENABLE_TAGS_GENERATION": "false",
    "ENABLE_AUTOCOMPLETE_GENERATION": "false",
    "ENABLE_EVALUATION_ARENA_MODELS": "false",
    "LOG_FORMAT": "json",
    "AUDIT_LOG_LEVEL": "METADATA",
    "ENABLE_AUDIT_STDOUT": "true",
    "ENABLE_AUDIT_LOGS_FILE": "false",
    # Otherwise anyone on the network names the address that the audit log shows.
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
}
