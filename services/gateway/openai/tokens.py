"""/v1/models, /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from services.common.errors import InvalidValue, ModelNotFound
from services.gateway.core import Gateway
from services.gateway.http.body import validate
from services.gateway.http.sse import JsonResponse
from services.gateway.openai import params
from services.gateway.openai.chat import render_prompt, template_options
from services.gateway.openai.types import DetokenizeBody, ModelCard, ModelList, TokenizeBody


def _card(gateway: Gateway) -> ModelCard:
    model = gateway.model
    return ModelCard(id=model.name, created=model.created, root=model.name, max_model_len=gateway.max_len())


def list_models(gateway: Gateway) -> JsonResponse:
    return JsonResponse(ModelList(data=[_card(gateway)]).model_dump())


def get_model(gateway: Gateway, name: str) -> JsonResponse:
    if name != gateway.model.name:
        raise ModelNotFound(
            f"the model {name!r} does not exist; this server has {gateway.model.name!r}", param="model"
        )
    return JsonResponse(_card(gateway).model_dump())


async def tokenize(gateway: Gateway, raw: dict[str, Any]) -> JsonResponse:
    body = validate(TokenizeBody, raw)
    params.check_model(gateway.model, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidValue("give either prompt or messages", param="prompt")
    tokenizer = gateway.model.tokenizer
    if body.messages is not None:
        text, add = render_prompt(gateway, body.messages, body.tools, template_options(body)), False
    else:
        text, add = body.prompt or "", True
    if body.add_special_tokens is not None:
        add = body.add_special_tokens
    ids = await tokenizer.encode(text, add_special_tokens=add)
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": gateway.max_len(), "tokens": ids}
    answer["token_strs"] = [tokenizer.token_of(i) for i in ids] if body.return_token_strs else None
    return JsonResponse(answer)


def detokenize(gateway: Gateway, raw: dict[str, Any]) -> JsonResponse:
    body = validate(DetokenizeBody, raw)
    params.check_model(gateway.model, body.model)
    ids = params.check_ids("tokens", body.tokens, gateway.model)
    return JsonResponse({"prompt": gateway.model.tokenizer.decode(ids)})
