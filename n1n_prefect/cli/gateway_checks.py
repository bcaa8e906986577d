"""Whether the credentials block loads, its key works, and what it may spend. Nothing here costs anything."""

from n1n_prefect import catalog, errors
from n1n_prefect.cli.findings import Check, Found
from n1n_prefect.cli.patient import Patient
from n1n_prefect.images import DEFAULT_MODEL

_LITTLE_USD = 1.0


def _credentials(patient: Patient) -> Found:
    block = patient.credentials
    return "ok", f"block {patient.named.credentials!r} for {block.base_url}, account {block.account!r}"


def _key(patient: Patient) -> Found:
    """Whether the gateway takes the key, and which image models it serves."""
    name = patient.named.credentials
    try:
        with patient.gateway() as client:
            served = client.models()
    except errors.AuthenticationError as exc:
        return "wrong", (
            f"the gateway does not accept the key of block {name!r} ({exc}). Copy it again from the gateway's console: "
            f"N1N_API_KEY=… n1n-prefect setup --credentials {name} --overwrite"
        )
    known = [model for model in served if catalog.find(model)]
    if not known:
        return "wrong", (
            f"the key of block {name!r} works, but none of its {len(served)} models is an image model of the "
            "catalogue; give its token a group that has them, in the gateway's console"
        )
    count = f"{len(served)} models, image models: {', '.join(known)}"
    if DEFAULT_MODEL not in known:
        return "warning", f"{count}; not the default {DEFAULT_MODEL}, so say model= in your flows"
    return "ok", f"it works; {count}"


def _balance(patient: Patient) -> Found:
    try:
        with patient.gateway() as client:
            balance = client.balance()
    except errors.N1nError as exc:
        return "warning", f"the gateway does not tell it ({exc})"
    if balance is None:
        return "ok", "the gateway does not tell it; see its console"
    spent = f"${balance.used_usd:,.2f} spent"
    if balance.available_usd is None:
        return "ok", f"{spent}; the key has no limit of its own, and the account's balance is in the gateway's console"
    left = f"${balance.available_usd:,.2f} left, {spent}"
    if balance.available_usd <= 0:
        return "wrong", f"{left}: every call will be refused; top the account up, or raise the token's quota"
    return ("warning" if balance.available_usd < _LITTLE_USD else "ok"), left


GATEWAY_CHECKS = (
    Check("credentials", _credentials, ("server", "versions")),
    Check("key", _key, ("credentials",)),
    Check("balance", _balance, ("key",)),
)
