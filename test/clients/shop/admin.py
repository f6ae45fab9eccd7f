from django.contrib import admin

from shop.models import Customer, Line


class LineInline(admin.TabularInline):
    model = Line
    extra = 0


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    inlines = [LineInline]
