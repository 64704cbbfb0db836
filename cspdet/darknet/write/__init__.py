"""Export to Darknet: conversion of networks to cfg sections and .weights files."""
