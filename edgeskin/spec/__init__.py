"""The vocabulary: frozen, validated records without behaviour."""
