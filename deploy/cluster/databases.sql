-- Dagster's storage, beside the database that the image makes.
create database dagster owner email_platform;
