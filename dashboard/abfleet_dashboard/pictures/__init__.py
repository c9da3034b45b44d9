"""Pictures as SVG, from values. They know neither pages nor the analysis' rules; the style sheet has the colours."""
