"""PromQL about models: one series for each, narrowed by the dashboard's `$server` and `$model`."""

SERVER = 'instance=~"$server"'
MODEL = f'{SERVER}, gen_ai_request_model=~"$model"'
SIZE = f"max by (gen_ai_request_model) (ollama_model_size_bytes{{{MODEL}}})"
SPEED = f"model:ollama_output:tokens_per_second15m{{{MODEL}}}"
CEILING = f"max by (instance, gen_ai_request_model) (ollama_ceiling_tokens_per_second{{{MODEL}}})"
NAME = "{{gen_ai_request_model}}"


def or_zero(query: str) -> str:
    """Give 0 for each model on the disk that has no answer yet."""
    return f"{query} or on (gen_ai_request_model) 0 * {SIZE}"


def by_model(query: str) -> str:
    """Give the mean of all servers that have a model, by model."""
    return or_zero(f"avg by (gen_ai_request_model) ({query})")


def rate(metric: str, *by: str) -> str:
    """Give the growth of a counter per second, by model."""
    labels = ", ".join(("gen_ai_request_model", *by))
    return f"sum by ({labels}) (rate({metric}{{{MODEL}}}[$__rate_interval]))"


def p90(histogram: str) -> str:
    """Give the value that nine of ten stay below, by model."""
    return or_zero(f"histogram_quantile(0.9, {rate(f'{histogram}_bucket', 'le')})")


def mean(histogram: str) -> str:
    """Give the mean, by model."""
    return or_zero(f"{rate(f'{histogram}_sum')} / ({rate(f'{histogram}_count')} > 0)")
