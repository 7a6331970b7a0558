"""The shop's models as of the release that $SHOP_RELEASE names: each migration comes with one."""

import os

if os.environ["SHOP_RELEASE"] == "1":
    from shop.release_1 import Order, Product, Supplier, Tag
elif os.environ["SHOP_RELEASE"] == "2":
    from shop.release_2 import Order, Product, Supplier, Tag
else:
    from shop.release_3 import Order, Product, Supplier, Tag

__all__ = ["Order", "Product", "Supplier", "Tag"]
