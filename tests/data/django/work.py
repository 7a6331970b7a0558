"""What people and programs do with the shop: python work.py ACTION [ARGUMENT …]; $SHOP_DATABASE is the file."""

import os
import sys
from decimal import Decimal

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.test import Client  # noqa: E402
from shop.models import Order, Product, Supplier, Tag  # noqa: E402

RELEASE = int(os.environ["SHOP_RELEASE"])


def superuser(name):
    User.objects.create_superuser(name, f"{name}@shop.example", "secret")


def admin(name, supplier):
    """Logs in to the admin and keeps a supplier's goods there, as a person would."""
    client = Client()
    form(client, "/admin/login/?next=/admin/", {"username": name, "password": "secret"})
    form(client, "/admin/shop/supplier/add/", {"name": supplier})
    owner = Supplier.objects.get(name=supplier)
    labels = [f"{supplier} fresh", f"{supplier} heavy", f"{supplier} old"]
    for label in labels:
        form(client, "/admin/shop/tag/add/", {"label": label})
    tags = {tag.label: tag.pk for tag in Tag.objects.filter(label__in=labels)}
    product = {
        "sku": f"{supplier[:6]}-1",
        "title": f"Crate of {supplier} – größe 1",
        "price": "12.50",
        "supplier": owner.pk,
        "tags": [tags[labels[0]], tags[labels[2]]],
        "attributes": '{"weight": 12.5, "parts": [1, "two", null], "deep": {"ok": true}}',
    }
    form(client, "/admin/shop/product/add/", product)
    made = Product.objects.get(sku=product["sku"])
    product["tags"] = [tags[labels[0]], tags[labels[1]]]
    product["price"] = "13.75"
    form(client, f"/admin/shop/product/{made.pk}/change/", product)
    form(client, f"/admin/shop/tag/{tags[labels[2]]}/delete/", {"post": "yes"})


def form(client, path, fields):
    answer = client.post(path, fields)
    if answer.status_code != 302:
        sys.exit(f"{path} is refused: {answer.status_code} {answer.content.decode()[:4000]}")


def orders(name, sku, count):
    """Places orders, one transaction each."""
    buyer, product = User.objects.get(username=name), Product.objects.get(sku=sku)
    for number in range(int(count)):
        words = f"{name} {number}" if number % 3 else None
        more = {"note": words}
        if RELEASE >= 2:
            more = {"remark": words if RELEASE == 2 else words or "", "total": product.price * number}
        Order.objects.create(product=product, placed_by=buyer, quantity=number, **more)


def reprice(sku, price):
    product = Product.objects.get(sku=sku)
    product.price = Decimal(price)
    product.save(update_fields=["price", "updated_at"])


def retitle(sku, title):
    Product.objects.filter(sku=sku).update(title=title, attributes={"title": title, "old": None})


def cancel(name):
    """Deletes a user, and with it what it did, as Django cascades."""
    print(User.objects.get(username=name).delete()[0])


def check(count):
    """Reads everything back through the models."""
    found = [(str(order.quantity), order.product.supplier.name, order.placed_by.username) for order in Order.objects.all()]
    if len(found) != int(count):
        sys.exit(f"{len(found)} orders, not {count}")
    for product in Product.objects.all():
        product.full_clean()
        if not isinstance(product.attributes, dict):
            sys.exit(f"{product.sku}: {product.attributes!r}")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
