"""Who used what: a pseudonym, and only if the owner says so. It changes the stack."""

import re

from real_house import House, ask
from waiting import eventually


def test_users_are_told_apart_by_pseudonym_when_the_owner_says_so(house: House) -> None:
    house.demo.edit(lambda keys: keys["homelab:observability"].update(label_users=True))
    house.demo.engine.up(lambda _: None)
    house.demo.kubelet.start()
    house.sign_in()

    usage = house.chat("codellama:7b", "Who am I?")["usage"]

    labels = 'gen_ai_request_model="codellama:7b", ollama_user!=""'
    tokens = f'gen_ai_client_token_usage_sum{{{labels}, gen_ai_token_type="output"}}'
    (counted,) = eventually(lambda: house.series(tokens))
    assert float(counted["value"][1]) == usage["completion_tokens"]
    assert re.fullmatch("[0-9a-f]{8}", counted["metric"]["ollama_user"])
    (requests,) = house.series(f"ollama_requests_total{{{labels}}}")
    assert requests["metric"]["ollama_user"] == counted["metric"]["ollama_user"]


def test_a_model_that_is_added_later_is_there_for_everybody(house: House) -> None:
    later = "llama3.2:1b"
    user = house.person("user")
    assert later not in house.models(user.token)
    house.demo.edit(lambda keys: keys["homelab:ollama"]["models"].append(later))
    house.demo.engine.up(lambda _: None)
    house.demo.kubelet.start()
    (job,) = house.demo.kubelet.run_jobs().values()
    assert job.code() == 0, job.log().read_text()

    assert later in eventually(lambda: house.models(user.token) & {later})
    assert house.chat(later, "Who are you?", user.token)["pieces"] > 1


def test_nobody_can_sign_up_after_a_restart_either(house: House) -> None:
    # With the account that it makes at its first start, Open WebUI closes sign-up by itself.
    stranger = {"name": "X", "email": "x@example.org", "password": "long enough 1"}
    status, _ = ask("POST", f"{house.page}/api/v1/auths/signup", stranger)

    assert status == 403
