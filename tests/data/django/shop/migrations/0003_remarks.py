from django.db import migrations, models


def fill_remarks(apps, schema_editor):
    apps.get_model("shop", "Order").objects.filter(remark=None).update(remark="")


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_totals")]
    operations = [
        migrations.RunPython(fill_remarks, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="order",
            name="quantity",
            field=models.DecimalField(decimal_places=3, max_digits=8),
        ),
        migrations.AlterField(
            model_name="order",
            name="remark",
            field=models.TextField(blank=True, default=""),
        ),
        migrations.AddIndex(
            model_name="order",
            index=models.Index(fields=["placed_at"], name="order_placed_at"),
        ),
        migrations.AddConstraint(
            model_name="product",
            constraint=models.UniqueConstraint(fields=("supplier", "title"), name="one_title_a_supplier"),
        ),
    ]
