"""The event log on Kafka: Apache Kafka, or the embedded broker that speaks its protocol."""

from services.adapters.kafka_admin import KafkaLogAdmin
from services.adapters.kafka_consumer import KafkaEventConsumer, KafkaGroupConsumer
from services.adapters.kafka_producer import KafkaEventProducer

__all__ = ["KafkaEventConsumer", "KafkaEventProducer", "KafkaGroupConsumer", "KafkaLogAdmin"]
