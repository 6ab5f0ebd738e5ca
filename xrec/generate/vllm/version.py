"""The versions of vLLM that can run collaborative tokens.

A collaborative token is an id at or above the size of the model's vocabulary. From version 0.33 on
vLLM refuses such ids (`Renderer.validate_token_ids`: "Token id 410 is out of vocabulary"). Up to
0.32 it skips this check if it has no tokenizer, and xrec gives it none.

The parity tests passed with 0.30 and with 0.32, on CPUs. Older versions were not tried. The extra
`[vllm]` allows 0.30 only, because 0.31 and 0.32 need an older transformers than xrec's training.
"""

from xrec.errors import ModelError

_FIRST_KNOWN = (0, 30)
_FIRST_REFUSED = (0, 33)


def check_installed_vllm() -> None:
    """Raise ModelError as `check_vllm_version` does for the vLLM that is installed.

    Call it before `xrec.generate.vllm.engine` is imported: its imports are inner modules of vLLM,
    which other versions have elsewhere. Raises ImportError if vLLM is not installed.
    """
    from vllm import __version__

    check_vllm_version(__version__)


def check_vllm_version(version: str) -> None:
    """Raise ModelError, with the reason, unless xrec can generate with this version of vLLM."""
    known = _major_and_minor(version)
    if known is not None and known >= _FIRST_REFUSED:
        raise ModelError(
            f"engine.kind vllm: vLLM {version} is installed; vLLM from 0.33 on refuses token ids "
            "outside the model's vocabulary, and users and items are such ids; "
            "run: pip install 'xrec[vllm]', or set engine.kind=transformers"
        )
    if known is None or known < _FIRST_KNOWN:
        raise ModelError(
            f"engine.kind vllm: vLLM {version} is installed; xrec was tested with 0.30 to 0.32; "
            "run: pip install 'xrec[vllm]', or set engine.kind=transformers"
        )


def _major_and_minor(version: str) -> tuple[int, int] | None:
    """(0, 30) of "0.30.1"; None for a version that does not begin with two numbers."""
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return None
    return int(parts[0]), int(parts[1])
