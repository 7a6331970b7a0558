from django.db import migrations, models


def fill_totals(apps, schema_editor):
    for order in apps.get_model("shop", "Order").objects.select_related("product"):
        order.total = order.quantity * order.product.price
        order.save(update_fields=["total"])


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.RenameField(model_name="order", old_name="note", new_name="remark"),
        migrations.AddField(
            model_name="order",
            name="total",
            field=models.DecimalField(decimal_places=2, max_digits=10, null=True),
        ),
        migrations.AddField(
            model_name="product",
            name="discount",
            field=models.DecimalField(decimal_places=2, default=0, max_digits=4),
        ),
        migrations.RunPython(fill_totals, migrations.RunPython.noop),
    ]
