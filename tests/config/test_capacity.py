"""The capacity plan: against published measurements, its properties, and its messages."""

import copy
from typing import Any

import pytest
from harness import RESERVED, deploy_program, read, stack_config
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import config
from config import Request, SettingsError, capacity, catalogue, checks
from config.capacity import GIB, KV_BYTES, ModelPlan, ServerPlan
from config.capacity_table import HEAD
from config.models import validate_name
from config.quantities import size
from config.settings import Settings

HOME = stack_config("home")

LOADED = {
    "llama3.2:3b": 3.4,
    "gemma3:4b": 5.8,
    "gemma2:9b": 8.1,
    "gpt-oss:20b": 15.0,
    "qwen3:8b": 6.6,
    "deepseek-r1:7b": 5.6,
}
"""GB of a loaded model, from comments in Ollama's integration/concurrency_test.go (2025).

Their context is unknown: with 8192 tokens all six match the plan, with 4096 llama3.2:3b is 17 %
below.
"""

CONTEXT = {
    "codellama:7b": {4: 2.0, 8: 4.0, 16: 8.0},
    "llama3.2:3b": {4: 0.44, 8: 0.88, 16: 1.75, 32: 3.5, 128: 14},
    "gemma2:2b": {4: 0.41, 8: 0.63},
    "gemma3:4b": {4: 0.25, 8: 0.33, 32: 0.79, 128: 2.67},
    "gpt-oss:20b": {4: 0.11, 8: 0.20, 32: 0.76, 128: 3.0},
    "gpt-oss:120b": {4: 0.16, 8: 0.30, 32: 1.15, 128: 4.5},
    "qwen3-coder:30b": {4: 0.38, 8: 0.75, 32: 3.0, 128: 12},
    "llama3.1:8b": {4: 0.5, 8: 1.0, 32: 4.0, 128: 16},
    "llama3.3:70b": {4: 1.25, 8: 2.5, 32: 10, 128: 40},
}
"""Published sizes of the f16 KV cache, GiB by thousands of tokens."""


def stack(
    *models: Any, memory: str = "93Gi", gpu: int | None = None, webui: Any = (), **ollama: Any
) -> Settings:
    """Return settings with these models, without cross-key checks; `gpu` is GiB for Ollama."""
    raw = copy.deepcopy(HOME)
    raw["ollama"] |= {"models": list(models) or raw["ollama"]["models"], **ollama}
    raw["webui"] |= {"task_model": None, **dict(webui)}
    raw["nodes"]["evo4t"]["memory"] = memory
    if gpu:
        # The profile keeps 1 GiB free.
        raw["nodes"]["evo4t"] |= {"profile": "hx370"}
        raw["nodes"]["evo4t"]["gpu"] = {"memory": f"{gpu + 1}Gi", "groups": [44]}
    return Settings.model_validate(raw)


def planned(settings: Settings) -> ServerPlan:
    return config.plan(settings, RESERVED).servers["ollama"]


def line(name: str, **keys: Any) -> ModelPlan:
    """Return the plan of one model."""
    lines = planned(stack(name, **keys)).models
    return next(line for line in lines if line.name == name)


def refused(settings: Settings) -> str:
    """Return the first problem of the plan, or an empty string."""
    for problem in checks.memory(settings, RESERVED):
        return f"{'.'.join(map(str, problem.path))}: {problem.want}"
    return ""


def test_a_planned_size_is_within_15_percent_of_the_recorded_one() -> None:
    errors = {
        name: line(name, context_length=8192).device_memory / (loaded * 1e9) - 1
        for name, loaded in LOADED.items()
    }

    assert {name: error for name, error in errors.items() if abs(error) > 0.15} == {}
    assert capacity.ESTIMATE_ERROR == 0.15


def test_the_planned_gpu_memory_is_that_of_the_example_in_ollamas_documentation() -> None:
    # docs.ollama.com/api/ps: gemma3 (4.3B), context_length 4096, size_vram. Its `size`, of an
    # engine of 2025, is 1.26 GB larger, and so more than planned.
    memory = line("gemma3:4b", context_length=4096).device_memory

    assert memory == pytest.approx(5333539264, rel=0.15)


@pytest.mark.parametrize("name", CONTEXT)
def test_a_planned_kv_cache_has_the_published_size(name: str) -> None:
    for thousands, gib in CONTEXT[name].items():
        kv = line(name, context_length=thousands * 1024).kv

        assert kv / GIB == pytest.approx(gib, rel=0.02, abs=0.006), f"{thousands}k"


def test_a_context_is_limited_to_the_length_of_the_models_training() -> None:
    assert line("codellama:7b", context_length=131072).context == 16384
    assert line("codellama:7b", context_length=131072).kv == 8 * GIB


def test_a_quantized_kv_cache_has_the_size_of_its_blocks() -> None:
    full, half, quarter = (line("llama3.2:3b", kv_cache=kind).kv for kind in KV_BYTES)

    assert (half / full, quarter / full) == (17 / 32, 9 / 32)


def test_an_embedding_model_has_one_slot_no_kv_cache_and_no_prompt_cache() -> None:
    embedding = planned(stack("llama3.2:3b", parallel=4)).models[-1]

    assert (embedding.name, embedding.kv, embedding.prompt_cache) == ("nomic-embed-text:v1.5", 0, 0)
    assert embedding == planned(stack("llama3.2:3b", parallel=1)).models[-1]
    assert embedding.ceiling is None


def test_an_embedding_model_with_a_kv_cache_has_one_slot_too() -> None:
    def embedding(parallel: int) -> ModelPlan:
        webui = {"embedding_model": "qwen3-embedding:0.6b"}
        return planned(stack(parallel=parallel, webui=webui)).models[-1]

    assert embedding(4) == embedding(1)
    assert embedding(1).kv > 0


def test_each_slot_has_its_own_context_and_sliding_window() -> None:
    cell = 2 * 4 * 256 * 2

    assert line("gemma3:4b", parallel=2).kv == cell * (5 * 2 * 8192 + 29 * (2 * 1024 + 512))


def test_a_gpu_needs_memory_for_larger_batches() -> None:
    assert line("llama3.2:3b", gpu=48).total - line("llama3.2:3b").total == capacity.GPU_BATCH


KNOWN = sorted(name for name, model in catalogue.catalogue().items() if model.kv_heads)
names = st.lists(
    st.sampled_from([*KNOWN, "mixtral:8x7b", "some:3b-q8_0"]), min_size=1, max_size=5, unique=True
)
contexts = st.integers(512, 2**20)
slots = st.integers(1, 8)
kinds = st.sampled_from(sorted(KV_BYTES))


@given(names, contexts, contexts, slots, slots, slots, slots, kinds)
@hypothesis_settings(max_examples=100, deadline=None)
def test_more_context_slots_or_models_never_need_less_memory(
    models: list[str], c1: int, c2: int, p1: int, p2: int, l1: int, l2: int, kind: str
) -> None:
    def needed(context: int, parallel: int, loaded: int, among: list[str]) -> tuple[int, ...]:
        settings = stack(
            *among,
            context_length=context,
            parallel=parallel,
            loaded_models=loaded,
            kv_cache=kind,
            gpu=48,
        )
        result = planned(settings)
        bounds = (size(result.memory.request), size(result.memory.limit))
        return (
            result.needed,
            result.on_gpu,
            result.files,
            bounds[0],
            config.plan(settings, RESERVED).requests["evo4t"].memory,
        )

    (c1, c2), (p1, p2), (l1, l2) = sorted((c1, c2)), sorted((p1, p2)), sorted((l1, l2))
    less = needed(c1, p1, l1, models)
    for more in (
        needed(c2, p1, l1, models),
        needed(c1, p2, l1, models),
        needed(c1, p1, l2, models),
        needed(c1, p1, l1, [*models, "tinyllama:1.1b"]),
    ):
        assert all(a <= b for a, b in zip(less, more, strict=True))


@given(names, contexts, slots, st.integers(8, 96), st.sampled_from([None, 8, 24, 48]))
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_suggested_change_makes_the_models_fit(
    models: list[str], context: int, parallel: int, memory: int, gpu: int | None
) -> None:
    keys: dict[str, Any] = {"memory": f"{memory}Gi", "gpu": gpu, "parallel": parallel}
    keys |= {"context_length": context}
    refusal = refused(stack(*models, **keys))
    _, fits, change = refusal.partition("; its size ")[0].partition("; it fits ")
    if not fits:
        return
    if change.startswith("without "):
        models = [name for name in models if name != change.removeprefix("without ")]
    else:
        key, value = change.removeprefix("with ollama.").split(": ")
        keys[key] = int(value)

    assert not refused(stack(*models, **keys)), refusal


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("mixtral:8x7b", 39.4),
        ("some:3b-q8_0", 3.67),
        ("some:3b-fp16", 6.9),
        ("some:335m", 0.236),
        ("hf.co/someone/Some-30B-A3B-GGUF:Q4_K_M", 21.1),
        ("some:instruct", None),
        ("some:e4b", None),
        *((f"hf.co/someone/gemma-3-27b-GGUF:{tag}", 7.76) for tag in ("TQ1_0", "UD-IQ1_M")),
        ("hf.co/someone/gemma-3-27b-GGUF:IQ3_XXS", 15.5),
        ("hf.co/someone/gemma-3-27b-GGUF:F32", 124.2),
        ("some:27b-int8", 32.9),
        ("some:27b-mxfp4", 19.0),
    ],
)
def test_a_models_size_is_estimated_from_its_name(name: str, gigabytes: float | None) -> None:
    model = catalogue.find(name, {})

    assert (model and model.size / catalogue.SAFETY / 1e9) == (
        gigabytes and pytest.approx(gigabytes, rel=0.01)
    )


def test_an_estimate_from_the_name_is_not_below_the_real_size() -> None:
    # Models below 2b have 8-bit weights, for which the estimate is too small.
    large = {
        name: model.size
        for name, model in catalogue.catalogue().items()
        if model.kv_heads and float(name.rpartition(":")[2].removesuffix("b")) >= 2
    }
    estimates = {name: catalogue.find(f"unknown-{name}", {}) for name in large}
    sizes = {name: model.size for name, model in estimates.items() if model}

    assert len(large) > 20
    assert sizes.keys() == large.keys()
    assert {name: sizes[name] / large[name] for name in large if sizes[name] < large[name]} == {}


def test_a_model_of_unknown_shape_is_planned_larger_than_a_known_one() -> None:
    # No grouped-query attention, as until 2023: a larger KV cache than later models of this size.
    old = {"codellama:7b", "codellama:13b"}
    for name in set(KNOWN) - old:
        declared = f"{catalogue.catalogue()[name].size / 1024:.4f}Ki"
        guess = line("unknown:tuned", model_sizes={"unknown:tuned": declared})

        assert guess.total > line(name).total, name


@pytest.mark.parametrize(
    ("files", "measured"),
    [
        # Published for Ollama 0.33.3 without a GPU, 8192 tokens: resident memory of the process
        # with qwen3.5:4b, and /api/ps of qwen3-embedding:0.6b (November 2026).
        (3389983735, 4530708 * 1024),
        (639150858, 2417491967),
    ],
)
def test_a_model_of_unknown_shape_is_planned_larger_than_measured(
    files: int, measured: int
) -> None:
    guess = line("unknown:tuned", model_sizes={"unknown:tuned": f"{files / 1024:.4f}Ki"})

    assert guess.device_memory > measured


def test_a_model_of_unknown_shape_has_no_speed() -> None:
    assert line("mixtral:8x7b").ceiling is None


def test_every_catalogue_entry_is_valid() -> None:
    for name, model in catalogue.catalogue().items():
        assert validate_name(name) is None
        assert bool(model.window) == (model.full_every > 1), name
        assert (model.read or 1) < model.size, name
    assert len(catalogue.catalogue()) >= 4 + 12


def test_loaded_models_is_by_default_what_fits_and_at_most_three() -> None:
    assert planned(stack()).loaded_models == 3
    assert planned(stack(memory="24Gi")).loaded_models == 2
    assert planned(stack("gpt-oss:120b", "llama3.3:70b", "llama3.2:3b")).loaded_models == 1
    assert planned(stack(gpu=16)).loaded_models == 1


def test_loaded_models_has_room_for_every_model_that_stays_loaded() -> None:
    models = [
        {"name": name, "keep_alive": "-1"}
        for name in ("llama3.2:3b", "codellama:7b", "gemma3:4b", "qwen2.5:7b")
    ]
    assert planned(stack(*models)).loaded_models == 4
    assert planned(stack(*models[:2], memory="12Gi")).loaded_models == 2


VARIANT = {"name": "mine:7b", "base": "codellama:7b"}
ONCE: list[tuple[list[Any], int, list[str]]] = [
    # ollama.models; loaded_models; the largest that may be loaded together
    (["llama3.2:3b", "codellama:7b", {**VARIANT, "context": 16384}], 3, ["mine:7b", "llama3.2:3b"]),
    (["codellama:7b", {**VARIANT, "context": 4096}], 2, ["codellama:7b"]),
    (["codellama:7b", {**VARIANT, "system": "s"}], 2, ["codellama:7b"]),
    (["CodeLlama:7b", {**VARIANT, "context": 16384}], 2, ["mine:7b"]),
    (
        ["codellama:7b", *({**VARIANT, "name": f"{n}:7b", "system": "s"} for n in "abc")],
        2,
        ["codellama:7b"],
    ),
    (
        [
            {"name": "codellama:7b", "keep_alive": "-1"},
            *({**VARIANT, "name": f"{n}:7b", "system": "s", "keep_alive": "-1"} for n in "abc"),
        ],
        2,
        ["codellama:7b"],
    ),
    (
        ["llama3.2:3b", "gemma3:4b", {**VARIANT, "context": 512}, "codellama:7b"],
        3,
        ["codellama:7b", "gemma3:4b", "llama3.2:3b"],
    ),
]


@pytest.mark.parametrize(("models", "count", "resident"), ONCE)
def test_models_with_the_same_weights_are_planned_once(
    models: list[Any], count: int, resident: list[str]
) -> None:
    """Ollama counts loaded models by the file of the weights (sched.go, schedulerModelKey)."""
    settings = stack(*models)
    result = planned(settings)
    embedding = settings.webui.embedding_model

    assert result.loaded_models == count
    assert [model.name for model in result.resident if model.name != embedding] == resident
    assert result.needed == sum(model.total for model in result.resident)
    assert result.on_gpu == sum(model.device_memory for model in result.resident)


def test_the_plan_assumes_that_the_largest_models_are_loaded() -> None:
    result = planned(stack(loaded_models=2))

    assert [model.name for model in result.resident] == ["codellama:7b", "gemma3:4b"]
    assert result.needed == sum(model.total for model in result.resident)


def test_the_memory_limit_is_above_the_need_and_leaves_the_system_reserve() -> None:
    roomy, tight = planned(stack()), planned(stack("gpt-oss:120b", memory="72Gi"))

    assert size(roomy.memory.limit) >= 1.15 * roomy.needed + 2 * GIB
    assert size(tight.memory.request) <= size(tight.memory.limit) <= (72 - 4) * GIB


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"models": ["gpt-oss:120b", "llama3.3:70b"], "loaded_models": 2},
        "ollama.loaded_models: models that fit: gpt-oss:120b, llama3.3:70b need 106 GiB at once,"
        " 19.7 GiB more than evo4t has left for Ollama; it fits with ollama.loaded_models: 1",
    ),
    (
        {"models": ["llama3.3:70b"], "context_length": 131072, "memory": "80Gi"},
        "; it fits with ollama.context_length: 65536",
    ),
    (
        {"models": ["llama3.3:70b", "llama3.2:3b"], "memory": "32Gi"},
        "ollama.models: models that fit: llama3.3:70b need 43.4 GiB at once, 18.7 GiB more than"
        " evo4t has left for Ollama; it fits without llama3.3:70b",
    ),
    (
        {"models": ["gpt-oss:120b", "gemma3:4b"], "gpu": 48},
        "ollama.models: models that fit: gpt-oss:120b need 63.6 GiB at once, 15.6 GiB more"
        " than the GPU's 48 GiB; it fits without gpt-oss:120b",
    ),
    ({"models": ["phi4:14b"], "memory": "12Gi"}, " more than evo4t has left for Ollama"),
    (
        {"models": ["hf.co/someone/Qwen3-235B-A22B-GGUF:TQ1_0"], "context_length": 2048},
        "; its size is estimated from its name: set ollama.model_sizes:"
        " {hf.co/someone/Qwen3-235B-A22B-GGUF:TQ1_0: ...} if that is wrong",
    ),
    (
        {"models": ["llama3.2:3b", "some:120b"], "memory": "24Gi"},
        "; it fits without some:120b; its size is estimated from its name: set ollama.model_sizes:"
        " {some:120b: ...} if that is wrong",
    ),
    (
        {"models": ["some:120b"], "model_sizes": {"some:120b": "80Gi"}, "memory": "24Gi"},
        " more than evo4t has left for Ollama",
    ),
    (
        {"models": [], "volume": {"path": "/mnt/evo4t/models", "size": "5Gi"}},
        "ollama.volume.size: 9Gi or more for the files of the models",
    ),
]


@pytest.mark.parametrize(("keys", "want"), REFUSED, ids=[want[-40:] for _, want in REFUSED])
def test_models_that_do_not_fit_are_refused_with_a_suggestion(
    keys: dict[str, Any], want: str
) -> None:
    keys = dict(keys)
    refusal = refused(stack(*keys.pop("models"), **keys))

    assert refusal.endswith(want)


def test_a_memory_request_below_the_plan_is_refused() -> None:
    memory = {"request": "8Gi", "limit": "64Gi"}
    raw = copy.deepcopy(HOME)
    raw["ollama"] |= {"memory": memory, "loaded_models": 3}

    with pytest.raises(SettingsError) as caught:
        read(raw)
    assert str(caught.value) == (
        "homelab:ollama.memory.request: got '8Gi', want 19Gi or more, for codellama:7b, gemma3:4b,"
        " llama3.2:3b at once"
    )
    raw["ollama"]["memory"] = {"request": "19Gi", "limit": "64Gi"}
    assert planned(read(raw)).memory.limit == "64Gi"


def test_the_plan_has_the_requests_of_each_node() -> None:
    raw = stack_config("example-two-nodes")
    requests = config.plan(read(raw), RESERVED).requests

    assert requests["large"].memory == 48 * GIB + capacity.SYSTEM_RESERVE.memory
    assert requests["small"] == capacity.SYSTEM_RESERVE.plus(RESERVED).plus(Request(0.5, GIB))


def test_the_table_has_a_line_for_each_model_and_the_sums() -> None:
    settings = stack("llama3.2:3b", "some:3b", parallel=2)
    title, head, llama, some, embedding, *sums = config.table(
        settings, config.plan(settings, RESERVED)
    ).splitlines()

    assert "docs/operate.md#does-it-fit" in title
    assert head.split() == list(HEAD[1:])
    assert " ".join(llama.split()) == "llama3.2:3b 2 x 8192 1.9 1.8 0.3 1.0 4.9 <= 44"
    assert some.startswith("some:3b *")
    assert embedding.split()[-1] == "-"
    assert sums[0] == "* not in the catalogue: estimated some:3b from its name, plus 20%"
    assert sums[1].startswith("most memory, if loaded together: 13.1 GiB for ")
    assert sums[2] == "Ollama's memory: request 14Gi, limit 18Gi"
    assert sums[3] == "files of the models: 4.5 GiB of 500 GiB"
    assert sums[4].startswith("evo4t: 20.7 GiB of 93 GiB requested")


def test_the_table_fits_a_hundred_columns() -> None:
    names = [f"a-model-of-a-longer-name-{number}:1b" for number in range(6)]
    settings = stack(*names, loaded_models=6)

    lines = config.table(settings, config.plan(settings, RESERVED)).splitlines()
    assert all(name in "\n".join(lines[-8:]) for name in names)
    assert max(map(len, lines)) <= 100 - 6


def test_a_run_of_the_program_prints_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr("pulumi.log.info", messages.append)
    deploy_program("home")
    settings = read(HOME)

    assert messages == [config.table(settings, config.plan(settings, RESERVED))]


def test_a_variant_has_its_own_context_and_the_weights_of_its_base() -> None:
    raw = stack_config("home")
    variant = {"name": "mine:4k", "base": "llama3.2:3b", "context": 4096}
    raw["ollama"]["models"] = ["llama3.2:3b", variant]
    result = planned(Settings.model_validate(raw))
    base, mine = result.models[:2]

    assert (mine.shape, mine.context) == (base.shape, 4096)
    assert mine.kv * 2 == base.kv
    assert result.files == sum(line.shape.size for line in result.models) - mine.shape.size
