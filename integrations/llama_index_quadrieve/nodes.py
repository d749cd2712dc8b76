"""LlamaIndex nodes as records of an index, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from llama_index.core.schema import BaseNode, Document, MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc
from numpy.typing import ArrayLike

from quadrieve import Hit, Record
from quadrieve.embedder import Vectors

#: The role's own field that says which document a node was cut from.
DOCUMENT = "ref_doc_id"


def to_record(node: BaseNode) -> Record:
    """A node as a record: the text is what LlamaIndex embeds of it, metadata included; the payload is all of it."""
    content = doc_to_json(node.model_copy(update={"embedding": None}))
    return Record(
        node.node_id,
        node.get_content(metadata_mode=MetadataMode.EMBED),
        node.metadata,
        payload={"node": content},
        fields={DOCUMENT: node.ref_doc_id or node.node_id},
        vector=None if node.embedding is None else unit(node.embedding),
    )


def from_record(record: Record | Hit) -> BaseNode:
    """The node that a record was made of; a passage that was added without LlamaIndex is a plain text node.

    A whole document comes back as a text node too, as from LlamaIndex's own stores: what was found is a passage.
    """
    if isinstance(record.payload, Mapping) and "node" in record.payload:
        node = json_to_doc(record.payload["node"])
        return TextNode.from_dict({**node.to_dict(), "text": node.text}) if type(node) is Document else node
    return TextNode(id_=record.id, text=record.text, metadata=dict(record.metadata))


def scored(hit: Hit) -> NodeWithScore:
    """The node that was found, with its cosine similarity."""
    return NodeWithScore(node=from_record(hit), score=hit.score)


def unit(vector: ArrayLike) -> Vectors:
    """A vector `[dim]` at length one, as an index wants it."""
    row: Vectors = np.asarray(vector, dtype=np.float32)
    return row / max(float(np.linalg.norm(row)), 1e-12)
