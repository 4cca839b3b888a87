"""Dashboard of AI performance: speed, load and memory of the models."""

from components.observability.dashboards.panels import Board, Panel, high, low
from components.observability.dashboards.queries import (
    CEILING,
    MODEL,
    NAME,
    SERVER,
    SIZE,
    SPEED,
    by_model,
    mean,
    or_zero,
    p90,
)

# Watchdog always fires, as a test of alerting; InfoInhibitor only inhibits other alerts.
FIRING = 'ALERTS{alertstate="firing", alertname!~"Watchdog|InfoInhibitor"}'
WELL = (
    Panel(
        "Ollama answers",
        "bool_yes_no",
        "Whether every model server answers its gateway.",
        "OllamaDown",
        {"": f"min(ollama_up{{{SERVER}}}) or vector(0)"},
        (("green", 1),),
        below="red",
        shape="stat",
    ),
    Panel(
        "Alerts firing",
        "short",
        "All alerts of the stack that fire now. Grafana lists them under Alerting.",
        "OllamaDown",
        {"": f"count({FIRING}) or vector(0)"},
        high(1, 3),
        shape="stat",
    ),
    Panel(
        "Failed answers",
        "percentunit",
        "Share of the answers that failed for reasons of the server, in the last 15 minutes, of "
        "the model that fares worst. What a client cancelled or asked wrongly does not count.",
        "AnswersFailing",
        {"": f"max(model:ollama_requests_failed:ratio_rate15m{{{MODEL}}}) or vector(0)"},
        high(0.02, 0.1),
        shape="stat",
    ),
    Panel(
        "Share of the ceiling",
        "percentunit",
        "Writing speed in the chosen time, as a share of what the memory's bandwidth allows. "
        "Three quarters is good for one chat at a time; several at once can exceed it.",
        "ModelSlow",
        {
            "": f"avg(avg_over_time({SPEED}[$__range])"
            f" / on (instance, gen_ai_request_model) {CEILING}) or vector(0)"
        },
        low(0.25, 0.5),
        below="red",
        shape="stat",
        zero="no data",
    ),
    Panel(
        "First token",
        "s",
        "Nine of ten answers of the last half hour began within this time, of the slowest model. "
        "A model that has to be loaded first, or a long prompt, takes longer.",
        "FirstTokenSlow",
        {"": f"max(model:ollama_first_token:p90_30m{{{MODEL}}} >= 0) or vector(0)"},
        high(30, 120),
        shape="stat",
        zero="no data",
    ),
    Panel(
        "Waiting",
        "short",
        "Requests that have no answer yet: they wait for a free place, or their prompt is read.",
        "QueueGrowing",
        {"": f"sum(ollama:requests_waiting:sum{{{SERVER}}}) or vector(0)"},
        high(2, 5),
        shape="stat",
    ),
)
SPEEDS = (
    Panel(
        "Writing speed",
        "suffix: tok/s",
        "Tokens a second while a model writes, in the last 15 minutes of use. The ceiling is the "
        "memory's bandwidth by the bytes read per token; 0 where the stack file has none.",
        "ModelSlow",
        {NAME: by_model(SPEED), f"{NAME}, ceiling": by_model(CEILING)},
    ),
    Panel(
        "Time to the first token",
        "s",
        "Nine of ten streamed answers began within this time.",
        "FirstTokenSlow",
        {NAME: p90("gen_ai_server_time_to_first_token_seconds")},
        high(30, 120),
    ),
    Panel(
        "Reading speed",
        "suffix: tok/s",
        "Tokens of the prompt read in a second, less those that came from the cache. It is bound "
        "by computing, not by memory.",
        "FirstTokenSlow",
        {NAME: mean("ollama_prefill_tokens_per_second")},
    ),
)
LOAD = (
    Panel(
        "Requests in flight",
        "short",
        "Requests sent to Ollama and not finished: waiting for their first byte, or answering.",
        "QueueGrowing",
        {
            "{{ollama_phase}}": "sum by (ollama_phase) (ollama_requests_in_flight"
            f"{{{MODEL}}}) or on () vector(0)"
        },
        high(2, 5),
    ),
    Panel(
        "Wait for a free place",
        "s",
        "Nine of ten answers waited less than this for a free place, with some milliseconds of "
        "overhead. It grows when more ask at once than `ollama.parallel` allows.",
        "QueueGrowing",
        {NAME: p90("ollama_queue_duration_seconds")},
        high(10, 60),
    ),
    Panel(
        "Whole answer",
        "s",
        "Nine of ten answers were complete within this time.",
        "FirstTokenSlow",
        {NAME: p90("gen_ai_server_request_duration_seconds")},
        high(120, 600),
    ),
    Panel(
        "Time to load a model",
        "s",
        "How long it took to read a model from the disk into memory. Often? Then raise "
        "`ollama.keep_alive` or `ollama.loaded_models`.",
        "FirstTokenSlow",
        {NAME: mean("ollama_load_duration_seconds")},
        high(30, 120),
    ),
)
MODELS = (
    Panel(
        "Memory of loaded models",
        "bytes",
        "Memory of each loaded model, on the CPU and on the GPU. 0: on the disk only.",
        "ModelOnCPU",
        {
            f"{NAME}, CPU": or_zero(
                f"max by (gen_ai_request_model) (ollama_model_loaded_size_bytes{{{MODEL}}}"
                f" - ollama_model_loaded_gpu_size_bytes{{{MODEL}}})"
            ),
            f"{NAME}, GPU": or_zero(
                f"max by (gen_ai_request_model) (ollama_model_loaded_gpu_size_bytes{{{MODEL}}})"
            ),
        },
    ),
    Panel(
        "Answers by outcome",
        "reqpm",
        "Answers a minute by outcome; `ok` is a complete one.",
        "AnswersFailing",
        {
            "{{ollama_outcome}}": "60 * sum by (ollama_outcome) (rate(ollama_requests_total"
            f'{{{MODEL}, gen_ai_request_model!=""}}[$__rate_interval]))'
        },
    ),
    Panel(
        "Models on the disk",
        "bytes",
        "Size of each model on the disk. Models may share layers, so the sum can be less.",
        "DataDiskFull",
        {NAME: SIZE},
        shape="bars",
    ),
)
GATEWAY = (
    Panel(
        "Silence",
        "s",
        "Time since a model with requests last generated anything. Minutes are a long prompt; a "
        "process that hangs does not recover.",
        "ModelSilent",
        {NAME: or_zero(f"max by (gen_ai_request_model) (ollama_model_silence_seconds{{{MODEL}}})")},
        high(300, 1200),
    ),
    Panel(
        "Refused by a limit",
        "reqpm",
        "Requests a minute that a limit of the gateway refused or ended, by limit: too large, "
        "too many at once, not JSON, or a client that sent nothing.",
        "AnswersFailing",
        {
            "{{ollama_limit}}": "60 * sum by (ollama_limit) (rate(ollama_requests_limited_total"
            f"{{{SERVER}}}[$__rate_interval])) or on () vector(0)"
        },
    ),
)
BOARD = Board(
    "ai",
    "AI performance",
    {"Health": WELL, "Speed": SPEEDS, "Load": LOAD, "Models": MODELS, "Gateway": GATEWAY},
    time="6h",
    by_model=True,
)
