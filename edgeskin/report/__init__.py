"""Result records -> one HTML page and its Markdown twin. `html.render` is the way in."""
