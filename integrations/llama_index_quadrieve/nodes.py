"""LlamaIndex nodes as records of an index, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.schema import BaseNode, ImageNode, IndexNode, MetadataMode, Node, NodeWithScore, TextNode

from quadrieve import Hit, Record

_CLASSES: dict[str, type[BaseNode]] = {kind.class_name(): kind for kind in (TextNode, Node, IndexNode, ImageNode)}

#: The field that says which document a node was cut from.
DOCUMENT = "ref_doc_id"


def to_record(node: BaseNode) -> Record:
    """A node as a record: its text is what LlamaIndex embeds of it, metadata included; the payload is the node."""
    content: dict[str, Any] = node.model_dump(mode="json", exclude={"embedding"})
    return Record(
        node.node_id,
        node.get_content(metadata_mode=MetadataMode.EMBED),
        content["metadata"],
        payload={"node": content},
        fields={DOCUMENT: node.ref_doc_id} if node.ref_doc_id else {},
    )


def from_record(record: Record | Hit) -> BaseNode:
    """The node that a record was made of; a passage that was added without LlamaIndex is a plain text node."""
    if isinstance(record.payload, Mapping) and "node" in record.payload:
        content = record.payload["node"]
        return _CLASSES.get(content["class_name"], TextNode).from_dict(content)
    return TextNode(id_=record.id, text=record.text, metadata=dict(record.metadata))


def scored(hit: Hit) -> NodeWithScore:
    """The node that was found, with its cosine similarity."""
    return NodeWithScore(node=from_record(hit), score=hit.score)
