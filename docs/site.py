"""A hook of mkdocs: links that leave docs/ lead to the repository, which the built site is not."""

import posixpath
import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Turn such a link into one to `repo_url`, or, where that is not set, into the path as text."""

    def told(match: "re.Match[str]") -> str:
        text, target = match[1], match[2]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if path.startswith("docs/"):
            return match[0]
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return f"`{path}`" if text in path else f"{text} (`{path}`)"

    return LINK.sub(told, markdown)
