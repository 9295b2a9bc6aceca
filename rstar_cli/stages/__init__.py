"""The stages of a round: each joins the parts, reads its inputs and writes its artifacts."""
