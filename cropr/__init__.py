"""Token Cropr and the token-reducer interface: reduced Vision Transformers out of timm's."""
