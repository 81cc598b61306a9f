"""langchain-openai against a server: python use_langchain.py URL MODEL."""

import sys
from typing import Literal

from langchain_openai import ChatOpenAI
from pydantic import BaseModel

url, name = sys.argv[1:]


class Mood(BaseModel):
    """How somebody feels."""

    mood: Literal["good", "bad"]
    sure: bool


model = ChatOpenAI(base_url=url, api_key="unused", model=name, max_tokens=120, max_retries=0)
reply = model.invoke([("system", "Be short."), ("user", "hello")])
assert reply.usage_metadata["output_tokens"] > 0
assert list(model.stream("hello"))
for method in ("json_schema", "function_calling"):
    assert isinstance(model.with_structured_output(Mood, method=method).invoke("hello"), Mood), method
called = model.bind_tools([Mood], tool_choice="Mood").invoke("hello")
assert called.tool_calls[0]["name"] == "Mood"
