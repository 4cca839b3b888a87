"""PromQL of models, one series each, selected by the variables `$server` and `$model`."""

SERVER = 'instance=~"$server"'
MODEL = f'{SERVER}, gen_ai_request_model=~"$model"'
SIZE = f"max by (gen_ai_request_model) (ollama_model_size_bytes{{{MODEL}}})"
SPEED = f"model:ollama_output:tokens_per_second15m{{{MODEL}}}"
CEILING = f"max by (instance, gen_ai_request_model) (ollama_ceiling_tokens_per_second{{{MODEL}}})"
NAME = "{{gen_ai_request_model}}"


def or_zero(query: str) -> str:
    """Return a query that is 0 for each model on the disk without a result."""
    return f"{query} or on (gen_ai_request_model) 0 * {SIZE}"


def by_model(query: str) -> str:
    """Return a query for the mean of all servers, by model."""
    return or_zero(f"avg by (gen_ai_request_model) ({query})")


def rate(metric: str, *by: str) -> str:
    """Return a query for a counter's increase per second, by model."""
    labels = ", ".join(("gen_ai_request_model", *by))
    return f"sum by ({labels}) (rate({metric}{{{MODEL}}}[$__rate_interval]))"


def p90(histogram: str) -> str:
    """Return a query for the 90th percentile of a histogram, by model."""
    return or_zero(f"histogram_quantile(0.9, {rate(f'{histogram}_bucket', 'le')})")


def mean(histogram: str) -> str:
    """Return a query for the mean of a histogram, by model."""
    return or_zero(f"{rate(f'{histogram}_sum')} / ({rate(f'{histogram}_count')} > 0)")
