"""Dashboard of usage: requests and tokens by model and user, and the chat page."""

from components.observability.dashboards.panels import Board, Panel, high
from components.observability.dashboards.queries import MODEL, NAME, or_zero

# Without the kubelet's probes.
PEOPLE = 'http_route!~"/health.*|/ready"'
FAULTS = f'{PEOPLE}, http_status_code=~"5.."'
REFUSED = 'http_route="/api/v1/auths/signin", http_status_code=~"4.."'
TOKENS = f"gen_ai_client_token_usage_sum{{{MODEL}}}"
REQUESTS = f'ollama_requests_total{{{MODEL}, gen_ai_request_model!=""}}'


def requests(labels: str) -> str:
    """Return a query for the chat page's requests in the time range."""
    return f"sum(increase(http_server_requests_total{{{labels}}}[$__range]))"


WELL = (
    Panel(
        "Page errors",
        "percentunit",
        "Share of the chat page's answers in the chosen time that are its own fault (5xx).",
        "OpenWebUIDown",
        {"": f"({requests(FAULTS)} or vector(0)) / ({requests(PEOPLE)} > 0) or vector(0)"},
        high(0.01, 0.05),
        shape="stat",
    ),
    Panel(
        "Accounts active now",
        "short",
        "Accounts that were active in the last three minutes.",
        "OpenWebUIDown",
        {"": "max(webui_users_active) or vector(0)"},
        shape="stat",
    ),
    Panel(
        "Questions",
        "short",
        "Requests to models in the chosen time. A chat makes several: its title is one too.",
        "AnswersFailing",
        {"": f"sum(increase({REQUESTS}[$__range])) or vector(0)"},
        shape="stat",
    ),
    Panel(
        "Tokens",
        "short",
        "Tokens read and written in the chosen time.",
        "AnswersFailing",
        {"": f"sum(increase({TOKENS}[$__range])) or vector(0)"},
        shape="stat",
    ),
    Panel(
        "Failed sign-ins",
        "short",
        "Attempts to sign in that were refused in the chosen time.",
        "SignInFailures",
        {"": f"{requests(REFUSED)} or vector(0)"},
        high(10, 50),
        shape="stat",
    ),
    Panel(
        "Accounts",
        "short",
        "All accounts of the chat page. Sign-up is closed: only the admin adds one.",
        "SignInFailures",
        {"": "max(webui_users_total) or vector(0)"},
        shape="stat",
    ),
)
MODELS = (
    Panel(
        "Questions by model",
        "reqpm",
        "Requests a minute to each model.",
        "AnswersFailing",
        {NAME: or_zero(f"60 * sum by (gen_ai_request_model) (rate({REQUESTS}[$__rate_interval]))")},
    ),
    Panel(
        "Tokens by model",
        "suffix: tok/min",
        "Tokens a minute that each model read (input) and wrote (output).",
        "AnswersFailing",
        {
            f"{NAME}, {{{{gen_ai_token_type}}}}": or_zero(
                "60 * sum by (gen_ai_request_model, gen_ai_token_type)"
                f" (rate({TOKENS}[$__rate_interval]))"
            )
        },
    ),
)
PERSONS = (
    Panel(
        "Tokens in the chosen time, by user",
        "short",
        "By pseudonym of the user, if `observability.label_users` is true; otherwise all in one "
        "bar. `none` is what came without a user, such as a script.",
        "AnswersFailing",
        {
            "{{ollama_user}}": f"sum by (ollama_user) (increase({TOKENS}[$__range]))"
            " or on () vector(0)"
        },
        shape="bars",
    ),
    Panel(
        "Page requests by status",
        "reqpm",
        "What the chat page answered a minute, without the kubelet's probes. 4xx: asked wrongly or "
        "not signed in; 5xx: its own fault.",
        "OpenWebUIDown",
        {
            "{{http_status_code}}": "60 * sum by (http_status_code)"
            f" (rate(http_server_requests_total{{{PEOPLE}}}[$__rate_interval])) or on () vector(0)"
        },
    ),
    Panel(
        "Page response time",
        "ms",
        "Nine of ten answers of the page itself were there in this time. It does not measure the "
        "models: their text comes later, over the websocket.",
        "OpenWebUIDown",
        {
            "p90": "histogram_quantile(0.9, sum by (le) (rate("
            f"http_server_duration_milliseconds_bucket{{{PEOPLE}}}[$__rate_interval])))"
            " or vector(0)"
        },
        high(1000, 5000),
    ),
)
BOARD = Board(
    "usage",
    "Usage",
    {"Health": WELL, "Models": MODELS, "People": PERSONS},
    time="24h",
    by_model=True,
)
