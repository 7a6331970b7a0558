from django.contrib import admin

from shop.models import Order, Product, Supplier, Tag

admin.site.register([Order, Product, Supplier, Tag])
