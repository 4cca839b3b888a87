"""Open WebUI's environment in every stack: private, declarative, and light without a GPU."""

import json

FIXED = {
    # With persistent config, the database overrides the environment after the first start. Without
    # it, sign-up is open after every start unless it is disabled here.
    "ENABLE_PERSISTENT_CONFIG": "false",
    "ENABLE_SIGNUP": "false",
    "DEFAULT_USER_ROLE": "pending",
    "WEBUI_ADMIN_NAME": "Admin",
    # Otherwise users see a model only after an admin has shared it.
    "BYPASS_MODEL_ACCESS_CONTROL": "true",
    # A stolen session is valid until it expires; the default is four weeks.
    "JWT_EXPIRES_IN": "7d",
    # Not /app/backend/data: a volume there hides the models in the image.
    "DATA_DIR": "/data",
    "STATIC_DIR": "/tmp/static",
    "HOME": "/tmp",
    "RAG_EMBEDDING_ENGINE": "ollama",
    # By default each chunk is a request, all at the same time, and a text of 120 kB overflows
    # Ollama's queue.
    "RAG_EMBEDDING_BATCH_SIZE": "16",
    "RAG_EMBEDDING_CONCURRENT_REQUESTS": "4",
    # No requests to the internet.
    "OFFLINE_MODE": "true",
    "ENABLE_OPENAI_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "ENABLE_COMMUNITY_SHARING": "false",
    # Downloading the database damages it while it is in use.
    "ENABLE_ADMIN_EXPORT": "false",
    # Plugins run arbitrary Python in this pod.
    "ENABLE_PLUGINS": "false",
    "ENABLE_PIP_INSTALL_FRONTMATTER_REQUIREMENTS": "false",
    # The built-in tools add four requests and 20 kB of descriptions to a first "hi", which takes
    # minutes without a GPU.
    "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": False}}),
    "ENABLE_FOLLOW_UP_GENERATION": "false",
    "ENABLE_TAGS_GENERATION": "false",
    "ENABLE_AUTOCOMPLETE_GENERATION": "false",
    "ENABLE_EVALUATION_ARENA_MODELS": "false",
    "LOG_FORMAT": "json",
    "AUDIT_LOG_LEVEL": "METADATA",
    "ENABLE_AUDIT_STDOUT": "true",
    "ENABLE_AUDIT_LOGS_FILE": "false",
    # Otherwise any client can forge the address in the audit log by X-Forwarded-For.
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
}
