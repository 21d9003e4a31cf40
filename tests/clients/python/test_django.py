"""Django: an application is migrated, changed and migrated again, queried and introspected."""

import decimal
import io
import unittest

import django
from django import conf

from server import Server

# As a first start is, without users: what migrations find there is the superuser's.
SERVER = Server(secure=False)


def setUpModule():
    unittest.enterModuleContext(SERVER)
    conf.settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": SERVER.host,
                "PORT": SERVER.port,
                "USER": SERVER.user,
                "NAME": SERVER.database,
            }
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()


class Application(unittest.TestCase):
    def test_migrate_query_update_and_introspect(self):
        from django.contrib.auth.models import Group, Permission, User
        from django.core.management import call_command
        from django.db import IntegrityError, connection, models, transaction
        from django.db.models import Count, F, Q

        call_command("migrate", verbosity=0)
        call_command("migrate", verbosity=0)  # finds that all is there
        ada = User.objects.create_user("ada", "ada@example.org", "secret")
        staff = Group.objects.create(name="staff")
        ada.groups.add(staff)
        staff.permissions.set(Permission.objects.filter(codename__startswith="add_"))
        found = User.objects.filter(Q(groups__name="staff") | Q(is_staff=True)).annotate(
            n=Count("groups__permissions", distinct=True)
        )
        self.assertEqual([(user.username, user.n) for user in found], [("ada", Permission.objects.filter(codename__startswith="add_").count())])
        self.assertEqual(User.objects.update(last_name=F("username")), 1)
        self.assertTrue(User.objects.filter(last_name__iexact="ADA", date_joined__year__gte=2020).exists())
        with self.assertRaises(IntegrityError), transaction.atomic():
            User.objects.create_user("ada")
        created = User.objects.bulk_create([User(username=f"u{n}") for n in range(5)])
        self.assertEqual(created[4].pk, User.objects.get(username="u4").pk)

        self.change_a_model(connection, models)
        out = io.StringIO()
        call_command("inspectdb", stdout=out)
        self.assertIn("class AuthUser(models.Model)", out.getvalue())
        self.assertIn("unique=True, max_length=150", out.getvalue())
        call_command("flush", interactive=False, verbosity=0)
        self.assertEqual(User.objects.count(), 0)

    def change_a_model(self, connection, models):
        class Thing(models.Model):
            name = models.CharField(max_length=20)
            price = models.DecimalField(max_digits=8, decimal_places=2, default=decimal.Decimal("1.50"))
            data = models.JSONField(default=dict)

            class Meta:
                app_label = "things"

        with connection.schema_editor() as editor:
            editor.create_model(Thing)
        Thing.objects.create(name="a", data={"k": [1, 2]})
        added = models.DateField(null=True, db_index=True)
        added.set_attributes_from_name("made")
        with connection.schema_editor() as editor:
            editor.add_field(Thing, added)
        longer = models.CharField(max_length=200, unique=True)
        longer.set_attributes_from_name("name")
        with connection.schema_editor() as editor:
            editor.alter_field(Thing, Thing._meta.get_field("name"), longer)
        with connection.cursor() as cursor:
            constraints = connection.introspection.get_constraints(cursor, "things_thing")
            columns = connection.introspection.get_table_description(cursor, "things_thing")
        self.assertEqual([c.name for c in columns], ["id", "name", "price", "data", "made"])
        self.assertTrue(any(c["unique"] and c["columns"] == ["name"] for c in constraints.values()))
        self.assertTrue(any(c["index"] and c["columns"] == ["made"] for c in constraints.values()))
        names = [thing.name for thing in Thing.objects.order_by("id").iterator(chunk_size=1)]
        self.assertEqual(names, ["a"])
        thing = Thing.objects.filter(data__k__contains=[2]).values("name", "price").get()
        self.assertEqual(thing, {"name": "a", "price": decimal.Decimal("1.50")})
        with connection.schema_editor() as editor:
            editor.remove_field(Thing, Thing._meta.get_field("price"))
            editor.delete_model(Thing)


if __name__ == "__main__":
    unittest.main()
